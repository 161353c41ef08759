"""python -m ft_toolkit is ft."""

from __future__ import annotations

from ft_toolkit.cli import main

if __name__ == "__main__":
    main()
