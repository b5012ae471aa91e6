"""The page in the browser: a web server beside the robot, a client of the node like others."""
