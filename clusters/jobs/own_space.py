"""Runs a Python script of yours on a cluster, with a search space in a module of yours.

    RAY_API_SERVER_ADDRESS=http://127.0.0.1:8265 python clusters/jobs/own_space.py ~/my-search study.py s3://bucket/mine

Your folder goes to every node, so study.py may say `from my_net import space`, then
`mn.Study(sys.argv[1], space).train(...)` and so on, as in examples/tiny_conv.py. A token is read from
RAY_AUTH_TOKEN_PATH or RAY_AUTH_TOKEN, with RAY_AUTH_MODE=token.
"""

import argparse
import shlex
import sys

import manynet
from manynet.runtime import jobs


def main() -> None:
    """Submit, print the job's log, and end as it ends."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", help="your own folder; what its .gitignore names stays here")
    parser.add_argument("script", help="in it")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="of the script, e.g. where its study is")
    options = parser.parse_args()
    client = jobs.connect()
    job = client.submit_job(
        entrypoint=shlex.join(["python", options.script, *options.arguments]),
        # The nodes then need neither installed, and run the same as this machine.
        runtime_env={"working_dir": options.folder, "py_modules": list(manynet.__path__)},
    )
    jobs.follow(client, job)


if __name__ == "__main__":
    try:
        main()
    except manynet.ManynetError as error:
        sys.exit(f"Error: {error}")
