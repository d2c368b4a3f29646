"""An export behind HTTP: the same answers as the library, for as many and as large requests as there is room for."""
