"""kvfs over HTTP: command line, routes, wire forms. Holds no storage logic."""
