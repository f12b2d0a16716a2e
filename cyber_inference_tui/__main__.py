"""``python -m cyber_inference_tui``: the same as the installed program."""

from cyber_inference_tui.cli.main import main

main()
