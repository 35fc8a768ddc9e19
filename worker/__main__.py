"""`python -m worker`: patches the standard library for gevent before anything else is imported."""

from gevent import monkey

monkey.patch_all()

from worker.main import main  # noqa: E402

if __name__ == "__main__":
    main()
