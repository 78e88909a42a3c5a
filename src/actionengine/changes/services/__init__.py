"""The actions of change control: projects, record types and changes."""
