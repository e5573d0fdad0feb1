"""Where the command line takes the token for a node from: a file or the environment.

Never from an argument, which every user of the machine can see.
"""

import os
from pathlib import Path
from typing import Final

TOKEN_VARIABLE: Final = "HOLDFAST_TOKEN"


def read_token(token_file: Path | None) -> str:
    """Return the token of a file, else of the environment; never of the command line.

    Raises:
        InvalidRequestError: `bad-token-file`.
    """
    if token_file is None:
        return os.environ.get(TOKEN_VARIABLE, "")
    from holdfast.server.node_access import read_secret

    return read_secret(token_file)
