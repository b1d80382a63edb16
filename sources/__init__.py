"""Where items come from. Everything here may import the kernel and nothing else of the project."""
