"""`python -m apt_engine`: the engine without a page."""

from apt_engine.cli.main import main

raise SystemExit(main())
