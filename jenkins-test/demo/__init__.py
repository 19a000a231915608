"""The demo: a controller, the provisioner and a few builds, watched from outside."""
