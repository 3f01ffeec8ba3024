import sys

from labreport.store.command import main

sys.exit(main())
