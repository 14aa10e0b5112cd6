"""What is checked before and while numbers are computed: arguments, devices and their precision, and finite numbers."""
