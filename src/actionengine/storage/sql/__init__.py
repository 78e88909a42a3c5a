"""What the backends on SQLAlchemy share."""
