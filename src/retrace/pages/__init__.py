"""Pages for a browser, each a file of its own: whole without a network or JavaScript, dark or light as the reader is.

A page is a module and its template beside it; whatever text is put in is escaped.
"""
