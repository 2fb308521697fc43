"The demo and the command line"
