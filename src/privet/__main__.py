"""python -m privet"""

from privet.commands.cli import main

main()
