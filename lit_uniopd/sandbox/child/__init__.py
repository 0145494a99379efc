"""What runs in the sandbox's own process, before and around an untrusted program.

The parent compiles these files and hands the code over a pipe, since the child cannot (and must not) read this
repository. They use the standard library only.
"""
