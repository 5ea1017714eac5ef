// Kernels as a program: it reads a launch from standard input, runs it, and writes what is in memory afterwards.
#pragma once

#include "emulator.hpp"

namespace emulator {

inline uint64_t read_number() {
    uint64_t number;
    if (fread(&number, sizeof number, 1, stdin) != 1) fail("the launch is cut off");
    return number;
}

inline std::vector<unsigned char> read_bytes() {
    std::vector<unsigned char> bytes(read_number());
    if (!bytes.empty() && fread(bytes.data(), 1, bytes.size(), stdin) != bytes.size()) fail("the launch is cut off");
    return bytes;
}

// An argument as it was read: the bytes of memory, none where a kernel is to be given none, or those of a number.
struct Argument {
    bool is_buffer;
    std::vector<unsigned char> bytes;
    void *at;
};

// Reads a launch, runs it, and writes what is in its buffers then.
inline int serve(const Signature &kernel) {
    Dimensions grid;
    grid.x = read_number();
    grid.y = read_number();
    grid.z = read_number();
    const unsigned threads = read_number();
    const size_t shared_bytes = read_number();
    std::vector<Argument> arguments(read_number());
    if (arguments.size() != kernel.sizes.size()) fail("a kernel takes another number of arguments");
    std::vector<const void *> addresses;
    for (size_t i = 0; i < arguments.size(); i++) {
        Argument &argument = arguments[i];
        argument.is_buffer = read_number() == 1;
        argument.bytes = read_bytes();
        argument.at = argument.bytes.empty() ? nullptr : argument.bytes.data();
        if (argument.is_buffer) races::watch(argument.at, argument.bytes.size(), "argument " + std::to_string(i), false);
        if (argument.is_buffer != kernel.are_pointers[i]) fail("a kernel takes memory where there is a number, or the other way");
        if (!argument.is_buffer && argument.bytes.size() != kernel.sizes[i]) fail("a kernel takes a number of another size");
        addresses.push_back(argument.is_buffer ? &argument.at : argument.at);
    }
    run(grid, threads, shared_bytes, [&] { kernel.call(addresses); });
    for (const auto &argument : arguments)
        if (argument.is_buffer) fwrite(argument.bytes.data(), 1, argument.bytes.size(), stdout);
    return fflush(stdout) == 0 ? 0 : 3;
}

} // namespace emulator
