#!/bin/sh
# Makes stix-two-math.woff2 beside this script: the part of STIX Two Math that the report's formulas (MathML) need.
# The font, unchanged, comes from the wheel of ziamath; OFL.txt is its licence. Needs uv and the package index.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
uv venv -q "$work/env"
uv pip install -q --python "$work/env/bin/python" ziamath==0.13 fonttools==4.68.0 brotli==1.2.0

set -- \
  "20-7E,A0,A8,AC,AF,B1,B4,B7,D7,F7,2C6,2C7,2C9,2D8,2D9,2DC,300-304,307,308,338,20D7"  `# ASCII, accents` \
  "391-3A9,3B1-3C9,3D1,3D5,3F5"                                                        `# Greek` \
  "2016,2026,2032-2034,203E,2061-2063,22EE-22F1,23DE,23DF"                             `# primes, dots, braces` \
  "2190-2194,21A6,21D0,21D2,21D4,27F5-27FA"                                            `# arrows` \
  "2200-220D,220F-2213,2216-221E,2223-222E,223C,2243,2245,2248,2254,2260,2261"         `# operators, relations` \
  "2264,2265,226A,226B,2282,2283,2286,2287,2295-2299,22A4,22A5,22C5,25A1,2AAF,2AB0" \
  "2308-230B,27E8,27E9"                                                                `# brackets` \
  "1D400-1D467,210E,1D468-1D49B,1D6E2-1D71B"                                           `# bold, italic, Greek italic` \
  "1D49C-1D4B5,212C,2130,2131,210B,2110,2112,2133,211B"                                `# script` \
  "2102,210D,2115,2119,211A,211D,2124,1D538-1D550,1D7D8-1D7E1"                         `# double-struck`
unicodes=$(IFS=,; printf '%s' "$*")
"$work/env/bin/pyftsubset" "$work"/env/lib/python*/site-packages/ziamath/fonts/STIXTwoMath-Regular.ttf \
  --output-file="$here/stix-two-math.woff2" --flavor=woff2 --no-hinting --layout-features= --unicodes="$unicodes"
