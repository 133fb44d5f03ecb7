"""Takes stores out as streams of JSON lines, and puts such streams into stores."""
