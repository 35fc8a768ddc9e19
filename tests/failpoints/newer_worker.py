"""A worker of a release to come, whose entries this release cannot read: the same code with the next schema version."""

from gevent import monkey

monkey.patch_all()

from shared import events  # noqa: E402

events.SCHEMA_VERSION += 1

from worker.main import main  # noqa: E402 - it takes the version over as it is imported

if __name__ == "__main__":
    main()
