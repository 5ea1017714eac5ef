// What the parts of the emulated card share: its kernels, its streams, and how work is queued.
#pragma once

#include <functional>
#include <string>

#include "emulator.hpp"

namespace card {

// Makes a kernel known by its name, which no other module may have, and with the threads that it was compiled for.
bool add(const std::string &name, emulator::Signature signature, unsigned threads = 1024);

struct Stream;

// Puts work at the end of what a stream has to do, or into what it is recording. Returns a `CUresult`.
int queue(Stream *stream, std::function<void()> work);

// What a file of the card's folder says, or a number if there is no such file.
long setting(const char *name, long otherwise);

} // namespace card
