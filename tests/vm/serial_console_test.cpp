#include "vm/serial_console.h"

#include <sys/socket.h>

#include <catch2/catch.hpp>

#include "base/stream_socket.h"
#include "support/error_kind.h"

using namespace isr;
using test::kind_thrown;

namespace {

constexpr std::chrono::seconds kLong{30};

void say(const UniqueFd& guest, std::string_view text) {
  REQUIRE((send_all(guest.get(), text, -1, std::chrono::steady_clock::now() + kLong) == SendResult::kSent));
}

}  // namespace

TEST_CASE("a console returns all earlier output of the guest, then the new output", "[vm]") {
  auto [here, guest] = make_socket_pair();
  SerialConsole console(std::move(here));
  console.start();
  say(guest, "boot\n");
  REQUIRE(console.wait_beyond(4, kLong));
  auto text = console.since(0);
  CHECK(text.text == "boot\n");
  CHECK(console.since(2, 2).text == "ot");
  say(guest, "login:");
  REQUIRE(console.wait_beyond(text.end() + 5, kLong));
  CHECK(console.since(text.end()).text == "login:");
  CHECK(console.since(1000).text.empty());
  CHECK_FALSE(console.wait_beyond(console.said(), std::chrono::milliseconds(1)));

  SECTION("and tells when there will be no more") {
    guest.reset();
    CHECK_FALSE(console.wait_beyond(console.said(), kLong));
    CHECK(console.ended());
    CHECK((kind_thrown([&] { console.write("x"); }) == ErrorKind::kVm));
  }
  SECTION("and sends text to the guest") {
    console.write("root\n");
    std::array<char, 16> heard{};
    REQUIRE(::recv(guest.get(), heard.data(), heard.size(), 0) == 5);
    CHECK(std::string_view(heard.data(), 5) == "root\n");
  }
}

TEST_CASE("the console of a guest with much output keeps the newest text and never slows the guest down", "[vm]") {
  auto [here, guest] = make_socket_pair();
  SerialConsole console(std::move(here), /*keep_bytes=*/10000);
  console.start();
  const std::string line(999, '.');
  for (int i = 0; i < 2000; ++i) say(guest, line + "\n");
  REQUIRE(console.wait_beyond(1999999, kLong));
  const auto text = console.since(0);
  CHECK(text.offset > 0);
  CHECK(text.end() == 2000000);
  CHECK(text.text.size() >= 10000);
  CHECK(text.text.size() <= 15000);
}

TEST_CASE("sending text to a guest that does not read it ends in time", "[vm]") {
  auto [here, guest] = make_socket_pair();
  SerialConsole console(std::move(here));
  console.start();
  const std::string much(16U << 20U, 'x');
  CHECK((kind_thrown([&] { console.write(much, std::chrono::milliseconds(20)); }) == ErrorKind::kVm));
}
