"""What actionengine looks like in an application."""
