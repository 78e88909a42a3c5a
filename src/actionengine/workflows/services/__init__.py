"""The actions of workflows."""
