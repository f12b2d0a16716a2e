"""The stand-in for llama-server, as a program: see ``server``.

Python compiles a program's own file at every start, and what it imports only once. So this one is
short, and what the service asks before a start loads nothing but the answers.
"""

import sys

if __name__ == "__main__":
    sys.path.insert(0, __file__.removesuffix("/tests/fakes/fake_llama_server.py"))
    from tests.fakes.options import answer_questions, parse

    answer_questions(sys.argv[1:])
    from tests.fakes.server import main

    main(parse(sys.argv[1:]))
