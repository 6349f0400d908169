"""Every figure of the lessons and reports, in one visual language."""
