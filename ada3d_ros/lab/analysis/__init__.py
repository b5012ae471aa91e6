"""`ada3d analyze` and `ada3d calibrate`: information, attention and survivors, layer by layer."""
