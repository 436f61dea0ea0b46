"""DirNet inside ESPnet: `import dirnet.espnet` makes its classes known to every `espnet2` program of this process.

The import is instant: ESPnet, which takes 12-17 s, is loaded by whoever needs it, and registration follows at once.
"""

from __future__ import annotations

from dirnet.espnet.hook import install

install()
