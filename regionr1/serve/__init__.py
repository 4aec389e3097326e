"""A trained policy outside the platform: export, the library class and the served model."""
