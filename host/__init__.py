"""The only code that knows ComfyUI's internals and versions."""
