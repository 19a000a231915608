"""What makes agents fail, tried one by one: this machine, controllers, providers, and an agent of each template."""
