"""Rules for texts: how names are spelled, and how deep and long JSON may be."""
