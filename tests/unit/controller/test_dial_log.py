"""The last words of a controller about its connection to a node."""

from __future__ import annotations

from provisioner.controller.dial_log import last_words

#: As Jenkins 2.460 with ssh-slaves writes it; the stack is three times as long.
LOG = """\
[11/27/26 15:53:47] [SSH] Opening SSH connection to 172.17.0.2:22022.
[11/27/26 15:53:47] [SSH] WARNING: The SSH key for this host does not match the key required in the configuration.
ERROR: Unexpected error in launching a node. This is probably a bug in Jenkins.
java.lang.IllegalStateException: Connection is not established!
\tat com.trilead.ssh2.Connection.getRemainingAuthMethods(Connection.java:1090)
\tat PluginClassLoader for ssh-slaves//hudson.plugins.sshslaves.SSHLauncher.openConnection(SSHLauncher.java:882)
\tat java.base/java.lang.Thread.run(Thread.java:840)
Caused by: java.io.IOException: no
\t... 12 more

[11/27/26 15:53:47] Launch failed - cleaning up connection
""".splitlines()


def test_stack_frames_are_left_out_and_what_they_are_about_is_not() -> None:
    assert [line.partition("] ")[2] or line for line in last_words(LOG, 20)] == [
        "[SSH] Opening SSH connection to 172.17.0.2:22022.",
        "[SSH] WARNING: The SSH key for this host does not match the key required in the configuration.",
        "ERROR: Unexpected error in launching a node. This is probably a bug in Jenkins.",
        "java.lang.IllegalStateException: Connection is not established!",
        "Caused by: java.io.IOException: no",
        "Launch failed - cleaning up connection",
    ]


def test_no_more_lines_than_asked_for() -> None:
    assert last_words(LOG, 1) == ("[11/27/26 15:53:47] Launch failed - cleaning up connection",)
    assert last_words(LOG, 0) == ()
    assert last_words((), 20) == ()
