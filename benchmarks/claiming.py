"""A process that says when it is ready, waits for a line, works the queue off, and says so."""

from __future__ import annotations

import sys

from presgen import DatabaseManager, PresentationJob


def main(url: str) -> None:
    with DatabaseManager(url) as manager, manager.session():
        PresentationJob.select().exists()
        print("ready", flush=True)
        sys.stdin.readline()
        while jobs := PresentationJob.claim("benchmark"):
            for job in jobs:
                job.complete(s3_video_path="/videos/done.mp4")
        print("done", flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
