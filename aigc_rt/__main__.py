"""`python -m aigc_rt` is `aigc-rt`."""

from aigc_rt.cli import main

if __name__ == "__main__":
    main()
