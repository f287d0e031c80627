"""Using a model that a run left: answers for new records, and files for other programs.

`privet.load` opens one; `privet predict` and `privet export` are the commands.
"""
