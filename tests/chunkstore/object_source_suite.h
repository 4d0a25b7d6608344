#pragma once

#include <atomic>
#include <catch2/catch.hpp>
#include <functional>
#include <thread>
#include <vector>

#include "base/crypto.h"
#include "chunkstore/object_source.h"
#include "support/bytes.h"

namespace isr::test {

/// A source to be tested, and the way to put an object where it takes them from.
struct SourceUnderTest {
  SourcePtr source;
  std::function<void(const Cid&, const Bytes&)> store;
};

/// What every ObjectSource promises. Each implementation runs it.
inline void check_object_source(const std::function<SourceUnderTest()>& make) {
  const SourceUnderTest under_test = make();
  ObjectSource& source = *under_test.source;
  const auto put = [&](const Bytes& object) {
    const Cid cid = cid_of(object);
    under_test.store(cid, object);
    return cid;
  };

  SECTION("an absent object is nullopt") {
    CHECK_FALSE(source.fetch(cid_of(random_bytes(10, 1)), Priority::kGuest, {}).has_value());
  }
  SECTION("an object comes back whole, whatever its size, each time it is fetched") {
    for (const std::size_t size : {std::size_t{1}, std::size_t{41}, std::size_t{4096}, kMaxObjectSize}) {
      const Bytes object = random_bytes(size, size);
      const Cid cid = put(object);
      CHECK((source.fetch(cid, Priority::kGuest, {}) == object));
      CHECK((source.fetch(cid, Priority::kPrefetch, {}) == object));
    }
  }
  SECTION("objects are not mixed up") {
    const Bytes a = random_bytes(1000, 1);
    const Bytes b = random_bytes(1000, 2);
    const Cid cid_a = put(a);
    const Cid cid_b = put(b);
    CHECK((source.fetch(cid_b, Priority::kGuest, {}) == b));
    CHECK((source.fetch(cid_a, Priority::kGuest, {}) == a));
  }
  SECTION("dropping a good or absent object changes nothing") {
    const Bytes object = random_bytes(5000, 3);
    const Cid cid = put(object);
    REQUIRE((source.fetch(cid, Priority::kGuest, {}) == object));
    source.drop(cid);
    source.drop(cid_of(random_bytes(10, 9)));
    CHECK((source.fetch(cid, Priority::kGuest, {}) == object));
  }
  SECTION("many threads may fetch at once") {
    std::vector<Bytes> objects;
    std::vector<Cid> cids;
    for (std::uint64_t i = 0; i < 20; ++i) {
      objects.push_back(random_bytes(3000 + i, i));
      cids.push_back(put(objects.back()));
    }
    std::atomic<int> wrong = 0;  // Catch's own checks are for one thread
    {
      std::vector<std::jthread> threads;
      for (std::size_t t = 0; t < 4; ++t) {
        threads.emplace_back([&, t] {
          for (std::size_t i = 0; i < 200; ++i) {
            const std::size_t k = (i * (t + 1)) % objects.size();
            if (source.fetch(cids[k], Priority::kGuest, {}) != objects[k]) ++wrong;
          }
        });
      }
    }
    CHECK(wrong == 0);
  }
  SECTION("it describes itself") { CHECK_FALSE(source.describe().empty()); }
}

}  // namespace isr::test
