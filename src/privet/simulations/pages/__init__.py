"""What all pages share: one look, one way to write numbers, one policy of what may be loaded.

page         a template with style, script and content security policy; page.html.jinja, page.css
formatting   numbers as a person reads them
scales       from values to places, and round levels between them
charts       line charts as geometry; macros.jinja draws them, charts.js reads them
plotting     the look of the same charts as pictures, by matplotlib
"""
