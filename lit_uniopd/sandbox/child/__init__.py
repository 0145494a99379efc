"""The code that runs in the sandboxed process, before and around an untrusted program.

The parent compiles these files and sends the code through a pipe, since the child cannot (and must not) read this
repository. They use the standard library only.
"""
