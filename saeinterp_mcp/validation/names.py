"""One spelling of an SAE's name, whatever files call it; and what the folder's readers say without its tables."""

import re

VERSION = 1
REMAKE = "Run `saeinterp-pipeline validate` again; it makes anew what is not whole."


def sae_id(name: str) -> str:
    """`google--gemma-scope-9b-pt-res--layer_30--width_16k` of the same with slashes.

    Both spellings occur in one data set of SAE_vis, which is why its tables do not join.
    """
    return re.sub(r"/+", "--", name.strip().strip("/"))
