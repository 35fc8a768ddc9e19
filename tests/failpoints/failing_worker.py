"""A worker with all points planted, in place of `python -m worker`."""

from gevent import monkey

monkey.patch_all()

from points import POINTS, plant  # noqa: E402

from worker.main import main  # noqa: E402

if __name__ == "__main__":
    plant(*(POINTS.keys() - {"after_the_accept"}))
    main()
