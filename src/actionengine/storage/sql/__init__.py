"""The parts that the backends on SQLAlchemy share."""
