"""``edlm train all``: a pipeline of commands, from text to a report, within a number of minutes."""

import signal

from edlm.commands.parsing import parse
from edlm.pipeline.config import PipelineConfig
from edlm.pipeline.run import run as run_stages
from edlm.pipeline.stage import check_stages
from edlm.pipeline.summary import write_summary


def run(config: PipelineConfig) -> None:
    """Run the stages that are not finished, then write and print the summary."""
    check_stages(config, parse)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that stages are stopped, and save
    try:
        progress = run_stages(config)
    except KeyboardInterrupt:
        print(f"interrupted: what is finished or saved in {config.output} is kept; the same call resumes", flush=True)
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
    path = write_summary(config, progress)
    print(path.read_text(encoding="utf-8"), path, sep="\n")
