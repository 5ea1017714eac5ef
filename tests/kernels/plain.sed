# Kernels as C++: the emulator brings what they include, and its shared memory is an array as any other.
/^#include/d
/^#pragma once/d
s/extern __shared__/extern/
