#include "image/uploader.h"

#include <catch2/catch.hpp>
#include <cstdlib>
#include <new>
#include <thread>

#include "support/bytes.h"
#include "support/error_kind.h"
#include "support/fault_store.h"
#include "support/memory_store.h"

namespace isr {
namespace {

using test::kind_thrown;

struct Object {
  explicit Object(std::uint64_t seed) : bytes(test::random_bytes(1000, seed)), cid(cid_of(bytes)) {}
  Bytes bytes;
  Cid cid;
};

/// Holds every put until it is opened, then refuses the first.
class GateStore : public test::MemoryStore {
 public:
  PutResult put_new(std::string_view name, ByteView bytes, std::stop_token stop) override {
    open.wait(false);
    if (!refused.exchange(true)) throw Error(ErrorKind::kDenied, "refused");
    return MemoryStore::put_new(name, bytes, stop);
  }
  std::atomic<bool> open{false}, refused{false};
};

/// How many more allocations of this thread succeed before one fails; negative: all.
thread_local int allocations_left = -1;

}  // namespace

}  // namespace isr

// In the place of the C++ library's; inlined, g++ 12 takes them for a mismatched pair.

[[gnu::noinline]] void* operator new(std::size_t size) {
  void* const memory = isr::allocations_left == 0 ? nullptr : std::malloc(size);
  if (isr::allocations_left >= 0) --isr::allocations_left;
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}
[[gnu::noinline]] void* operator new(std::size_t size, const std::nothrow_t&) noexcept { return std::malloc(size); }
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }

namespace isr {

TEST_CASE("objects that were put are in the store when finish() returns", "[image]") {
  const auto store = std::make_shared<test::MemoryStore>();
  UploadCounters counters;
  Uploader uploader(store, {.threads = 3}, counters);
  store->put_new(object_name(Object(5).cid), Object(5).bytes);
  for (std::uint64_t i = 0; i < 50; ++i) {
    const Object object(i);
    if (i % 2 == 0) {
      uploader.put(object.cid, object.bytes);
    } else {
      uploader.put_later(object.cid, 1000, [object] { return object.bytes; });
    }
  }
  uploader.finish();
  for (std::uint64_t i = 0; i < 50; ++i) CHECK(store->stat(object_name(Object(i).cid)) == 1000);
  CHECK(counters.objects == 50);
  CHECK(counters.bytes == 49'000);  // what was there already was not sent
}

TEST_CASE("half an object under an object's name is not taken for the object", "[image]") {
  const auto store = std::make_shared<test::MemoryStore>();
  const Object object(1);
  store->put_new(object_name(object.cid), ByteView(object.bytes).first(500));
  UploadCounters counters;
  Uploader uploader(store, {.threads = 1}, counters);
  uploader.put(object.cid, object.bytes);
  CHECK((kind_thrown([&] { uploader.finish(); }) == ErrorKind::kCorrupt));
}

TEST_CASE("an object that is likely there, and is there, is neither loaded nor sent", "[image]") {
  const auto store = std::make_shared<test::MemoryStore>();
  const Object there(1);
  const Object absent(2);
  const Object half(3);
  store->put_new(object_name(there.cid), there.bytes);
  store->put_new(object_name(half.cid), ByteView(half.bytes).first(500));
  UploadCounters counters;
  {
    Uploader uploader(store, {.threads = 1}, counters);
    uploader.put_later(
        there.cid, 1000, []() -> Bytes { throw Error(ErrorKind::kBug, "loaded"); }, Presence::kLikely);
    uploader.put(absent.cid, absent.bytes, Presence::kLikely);
    uploader.finish();
    CHECK(store->stat(object_name(absent.cid)) == 1000);
    CHECK(counters.objects == 2);
    CHECK(counters.bytes == 1000);
  }
  Uploader uploader(store, {.threads = 1}, counters);
  uploader.put(half.cid, half.bytes, Presence::kLikely);
  CHECK((kind_thrown([&] { uploader.finish(); }) == ErrorKind::kCorrupt));
}

TEST_CASE("an upload limit applies to all threads together", "[image]") {
  const auto store = std::make_shared<test::MemoryStore>();
  UploadCounters counters;
  const auto began = std::chrono::steady_clock::now();
  {
    Uploader uploader(store, {.threads = 4, .bytes_per_second = 40'000}, counters);
    for (std::uint64_t i = 0; i < 9; ++i) uploader.put(Object(i).cid, Object(i).bytes);
    uploader.finish();
    // Eight had to wait for the time of one before them: 25 ms each.
    CHECK(std::chrono::steady_clock::now() - began >= std::chrono::milliseconds(200));
    CHECK(counters.objects == 9);
  }
  SECTION("and waits end once the upload is given up") {
    {
      Uploader slow(store, {.threads = 2, .bytes_per_second = 1}, counters);
      for (std::uint64_t i = 20; i < 26; ++i) slow.put(Object(i).cid, Object(i).bytes);
    }
    CHECK(std::chrono::steady_clock::now() - began < std::chrono::minutes(5));
  }
}

TEST_CASE("a waiting producer gets the first failure", "[image]") {
  const auto store = std::make_shared<GateStore>();
  UploadCounters counters;
  Uploader uploader(store, {.threads = 1}, counters);
  std::atomic<int> accepted{0};
  std::optional<ErrorKind> seen;
  {
    const std::jthread producer([&] {
      seen = kind_thrown([&] {
        for (std::uint64_t i = 0; i < 100; ++i) {
          uploader.put(Object(i).cid, Object(i).bytes);
          ++accepted;
          accepted.notify_all();
        }
      });
    });
    for (int now = accepted; now < 4; now = accepted) accepted.wait(now);  // the next one waits: 4 are under way
    store->open = true;
    store->open.notify_all();
  }
  CHECK((seen == ErrorKind::kDenied));
  CHECK(accepted < 100);
  CHECK((kind_thrown([&] { uploader.finish(); }) == ErrorKind::kDenied));
  CHECK((kind_thrown([&] { uploader.put(Object(1).cid, Object(1).bytes); }) == ErrorKind::kDenied));
  CHECK(counters.objects == 0);
}

TEST_CASE("a put without memory fails, and finish() does not wait for its object", "[image]") {
  const auto store = std::make_shared<test::MemoryStore>();
  UploadCounters counters;
  Uploader uploader(store, {.threads = 1}, counters);
  const Object object(1);
  int refused = 0;
  for (bool accepted = false; !accepted; refused += accepted ? 0 : 1) {
    Bytes bytes = object.bytes;
    allocations_left = refused;
    try {
      uploader.put(object.cid, std::move(bytes));
      accepted = true;
    } catch (const std::bad_alloc&) {
    }
    allocations_left = -1;
  }
  uploader.finish();
  CHECK(refused > 0);
  CHECK(counters.objects == 1);
}

TEST_CASE("an object that cannot be loaded fails the upload", "[image]") {
  const auto store = std::make_shared<test::MemoryStore>();
  UploadCounters counters;
  Uploader uploader(store, {.threads = 2}, counters);
  uploader.put_later(Object(1).cid, 1000, []() -> Bytes { throw Error(ErrorKind::kCorrupt, "damaged"); });
  CHECK((kind_thrown([&] { uploader.finish(); }) == ErrorKind::kCorrupt));
}

TEST_CASE("an uploader that is given up finishes only the puts that had begun", "[image]") {
  const auto store = std::make_shared<GateStore>();
  UploadCounters counters;
  std::jthread opener;
  {
    Uploader uploader(store, {.threads = 2}, counters);
    for (std::uint64_t i = 0; i < 8; ++i) uploader.put(Object(i).cid, Object(i).bytes);
    opener = std::jthread([&] {
      store->open = true;
      store->open.notify_all();
    });
  }
  CHECK(counters.objects < 8);
}

}  // namespace isr
