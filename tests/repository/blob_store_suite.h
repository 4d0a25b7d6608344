#pragma once

#include <atomic>
#include <catch2/catch.hpp>
#include <functional>
#include <thread>

#include "repository/blob_store.h"
#include "support/bytes.h"

/// The contract of BlobStore as tests; every implementation must run it.
namespace isr::test {

inline Bytes text_bytes(std::string_view text) { return to_bytes(as_bytes(text)); }

template <class Call>
ErrorKind kind_thrown_by(Call call) {
  try {
    call();
  } catch (const Error& error) {
    return error.kind();
  }
  FAIL("no Error was thrown");
  return ErrorKind::kBug;
}

/// The part of the contract that holds without writing. `name` is stored with `bytes`.
inline void run_readable_blob_suite(BlobStore& store, const std::string& name, const Bytes& bytes) {
  const auto blob = store.get(name);
  REQUIRE(blob.has_value());
  CHECK((blob->bytes == bytes));
  if (blob->age) {
    CHECK(blob->age->count() >= 0);
  }
  CHECK(store.stat(name) == bytes.size());
  CHECK_FALSE(store.get("objects/00/absent").has_value());
  CHECK_FALSE(store.stat("objects/00/absent").has_value());

  REQUIRE(bytes.size() > 20);
  const auto middle = store.get(name, ByteRange{5, 10});
  REQUIRE(middle.has_value());
  CHECK((middle->bytes == Bytes(bytes.begin() + 5, bytes.begin() + 15)));
  const auto tail = store.get(name, ByteRange{bytes.size() - 3, 100});
  REQUIRE(tail.has_value());
  CHECK((tail->bytes == Bytes(bytes.end() - 3, bytes.end())));
  const auto beyond = store.get(name, ByteRange{bytes.size() + 7, 100});
  REQUIRE(beyond.has_value());
  CHECK(beyond->bytes.empty());
  CHECK_FALSE(store.get("objects/00/absent", ByteRange{0, 1}).has_value());

  std::stop_source stopped;
  stopped.request_stop();
  CHECK(kind_thrown_by([&] { store.get(name, {}, stopped.get_token()); }) == ErrorKind::kCancelled);
}

inline void run_bad_name_suite(BlobStore& store) {
  const Bytes bytes = text_bytes("x");
  for (const std::string name : {"", "/", "a", "a/", "/a/b", "a//b", "a/./b", "a/../b", "../a/b", "a/.hidden", ".tmp/a",
                                 "a/b\n", "a/b c", "a/%2e", "a/\xc3\xa9", "isr-repository/", "a\\b/c"}) {
    INFO("name: " << name);
    CHECK(kind_thrown_by([&] { store.get(name); }) == ErrorKind::kUsage);
    CHECK(kind_thrown_by([&] { store.stat(name); }) == ErrorKind::kUsage);
    CHECK(kind_thrown_by([&] { store.put_new(name, bytes); }) == ErrorKind::kUsage);
    CHECK(kind_thrown_by([&] { store.remove(name); }) == ErrorKind::kUsage);
  }
  CHECK(kind_thrown_by([&] { store.get(std::string("a/b\0c", 5)); }) == ErrorKind::kUsage);
  CHECK(kind_thrown_by([&] { store.get("a/" + std::string(201, 'x')); }) == ErrorKind::kUsage);
  CHECK(kind_thrown_by([&] { store.list("objects"); }) == ErrorKind::kUsage);
  CHECK(kind_thrown_by([&] { store.list("../"); }) == ErrorKind::kUsage);
}

/// Everything that a writable store promises. make() gives a new connection to
/// one and the same store, which is empty at first.
inline void run_blob_store_suite(const std::function<BlobStorePtr()>& make) {
  const BlobStorePtr store = make();
  REQUIRE(store->writable());
  REQUIRE_FALSE(store->describe().empty());

  SECTION("a blob can be read by everyone once put_new() returned") {
    const Bytes bytes = random_bytes(5000, 1);
    REQUIRE(store->put_new("parcels/4f/heads/0000000000000001", bytes) == PutResult::kCreated);
    run_readable_blob_suite(*make(), "parcels/4f/heads/0000000000000001", bytes);
  }
  SECTION("the largest blob and an empty one are kept unchanged") {
    const Bytes largest = random_bytes(kMaxBlobSize, 2);
    REQUIRE(store->put_new("a/largest", largest) == PutResult::kCreated);
    REQUIRE(store->put_new("a/empty", {}) == PutResult::kCreated);
    CHECK((store->get("a/largest")->bytes == largest));
    CHECK(store->get("a/empty")->bytes.empty());
    CHECK(store->stat("a/empty") == 0U);
  }
  SECTION("nothing is ever overwritten") {
    REQUIRE(store->put_new("a/b", text_bytes("first")) == PutResult::kCreated);
    CHECK(store->put_new("a/b", text_bytes("other")) == PutResult::kExists);
    CHECK(store->put_new("a/b", text_bytes("first")) == PutResult::kExists);
    CHECK((store->get("a/b")->bytes == text_bytes("first")));
  }
  SECTION("of many racers for one name exactly one is told kCreated, and its bytes are kept") {
    for (int round = 0; round < 5; ++round) {
      const std::string name = "race/" + std::to_string(round);
      std::atomic<int> winners{0};
      std::atomic<int> winner{-1};
      {
        std::vector<std::jthread> racers;
        for (int i = 0; i < 8; ++i) {
          racers.emplace_back([&, i] {
            if (store->put_new(name, random_bytes(1000, 100 + i)) == PutResult::kCreated) {
              ++winners;
              winner = i;
            }
          });
        }
      }
      CHECK(winners == 1);
      CHECK((store->get(name)->bytes == random_bytes(1000, 100 + winner)));
    }
  }
  // Not objects: a store may check that their names are hashes.
  SECTION("a list has the names below a prefix, sorted") {
    const auto empty = store->list("things/");
    REQUIRE(empty.has_value());
    CHECK(empty->empty());
    store->put_new("things/ab/abc", text_bytes("1"));
    store->put_new("things/00/00d", text_bytes("2"));
    store->put_new("things-other/x", text_bytes("3"));
    store->put_new("isr-repository", text_bytes("4"));
    CHECK((store->list("things/") == std::vector<std::string>{"things/00/00d", "things/ab/abc"}));
    CHECK((store->list("things/ab/") == std::vector<std::string>{"things/ab/abc"}));
    CHECK(store->list("absent/")->empty());
  }
  SECTION("a page of a list continues after a name, whether that exists or not") {
    for (const char* name : {"b-c/1", "b/1", "b/2", "b.c", "c", "b/sub/1"}) {
      store->put_new(std::string("things/") + name, text_bytes("1"));
    }
    const std::vector<std::string> all = {"things/b-c/1", "things/b.c",     "things/b/1",
                                          "things/b/2",   "things/b/sub/1", "things/c"};
    const auto rest = [&](const std::string& after) { return store->list_page("things/", after)->names; };
    CHECK((rest("") == all));
    for (std::size_t i = 0; i < all.size(); ++i) {
      const std::vector<std::string> behind(all.begin() + static_cast<std::ptrdiff_t>(i) + 1, all.end());
      CHECK((rest(all[i]) == behind));
      CHECK((rest(all[i] + ".x") == behind));
    }
    CHECK_FALSE(store->list_page("things/", "")->more);
  }
  SECTION("only a hint can be replaced") {
    store->put_hint("parcels/4f/latest", text_bytes("1"));
    store->put_hint("parcels/4f/latest", text_bytes("22"));
    CHECK((make()->get("parcels/4f/latest")->bytes == text_bytes("22")));
    CHECK(kind_thrown_by([&] { store->put_hint("parcels/4f/heads/1", text_bytes("1")); }) == ErrorKind::kUsage);
  }
  SECTION("a removed blob is absent, and its name is free again") {
    store->put_new("a/b", text_bytes("1"));
    CHECK(store->remove("a/b"));
    CHECK_FALSE(store->get("a/b").has_value());
    CHECK_FALSE(store->remove("a/b"));
    CHECK(store->put_new("a/b", text_bytes("2")) == PutResult::kCreated);
  }
  SECTION("a malformed name is a usage error in every call") { run_bad_name_suite(*store); }
}

}  // namespace isr::test
