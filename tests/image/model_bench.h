#pragma once

#include <algorithm>
#include <catch2/catch.hpp>

#include "base/file.h"
#include "image/image_bench.h"

namespace isr::test {

/// An image with a plain vector of the same bytes.
struct ModelBench : TempDirectory, ImageBench {
  explicit ModelBench(std::uint64_t size) : ImageBench(path(), TreeRoot{size, {}}), model(size) {}

  void check() {
    Bytes all(model.size());
    REQUIRE(image->read(0, all) == all.size());
    const bool equal = all == model;
    if (!equal) {
      const auto at = std::mismatch(all.begin(), all.end(), model.begin()).first - all.begin();
      FAIL("first difference at byte " << at);
    }
  }

  Bytes model;
};

}  // namespace isr::test
