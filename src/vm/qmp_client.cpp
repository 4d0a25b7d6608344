// One thread reads. Each execute() waits for the reply with its id. A broken conversation is never repaired: it ends,
// and every waiting caller gets the reason.
#include "vm/qmp_client.h"

#include <fmt/format.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/stream_socket.h"

namespace isr {
namespace {

using Json = nlohmann::json;

constexpr std::size_t kReadSize = 16384;

[[noreturn]] void throw_late(std::string_view command, const Patience& patience) {
  if (patience.stop.stop_requested())
    throw Error(ErrorKind::kCancelled, fmt::format("cancelled while QEMU did {}", command));
  throw Error(ErrorKind::kVm, fmt::format("QEMU did not answer {} within {} ms", command, patience.timeout.count()));
}

}  // namespace

QmpClient::QmpClient(UniqueFd connected, OnEvent on_event)
    : fd_(std::move(connected)), wake_(make_event()), on_event_(std::move(on_event)) {}

QmpClient::~QmpClient() {
  reader_.request_stop();
  raise_event(wake_);
}

std::string QmpClient::handshake(const Patience& patience) {
  reader_ = std::jthread([this](const std::stop_token& stop) { read_all(stop); });
  {
    auto state = state_.lock();
    changed_.wait_for(state.mutex_lock(), patience.stop, patience.timeout,
                      [&] { return state->version || !state->why_ended.empty(); });
    if (!state->why_ended.empty()) throw Error(ErrorKind::kVm, state->why_ended);
    if (!state->version) throw_late("the connection", patience);
  }
  execute("qmp_capabilities", patience);
  return *state_.lock()->version;
}

Json QmpClient::execute(const std::string& command, const Json& arguments, const Patience& patience) {
  return converse(command, arguments, -1, patience);
}

Json QmpClient::execute(const std::string& command, const Patience& patience) {
  return converse(command, Json(), -1, patience);
}

void QmpClient::send_fd(const std::string& name, int fd, const Patience& patience) {
  converse("getfd", Json{{"fdname", name}}, fd, patience);
}

bool QmpClient::ended() const { return !state_.lock()->why_ended.empty(); }

bool QmpClient::wait_ended(const Patience& patience) const {
  auto state = state_.lock();
  return changed_.wait_for(state.mutex_lock(), patience.stop, patience.timeout,
                           [&] { return !state->why_ended.empty(); });
}

Json QmpClient::converse(const std::string& command, const Json& arguments, int fd, const Patience& patience) {
  std::uint64_t id = 0;
  {
    auto state = state_.lock();
    if (!state->why_ended.empty()) throw Error(ErrorKind::kVm, state->why_ended);
    id = state->next_id++;
    state->waiting[id];
  }
  Json request{{"execute", command}, {"id", id}};
  if (!arguments.is_null()) request["arguments"] = arguments;
  send(request.dump(-1, ' ', /*ensure_ascii=*/true, Json::error_handler_t::replace) + "\n", fd, patience);

  std::optional<QmpMessage> answer;
  {
    auto state = state_.lock();
    changed_.wait_for(state.mutex_lock(), patience.stop, patience.timeout,
                      [&] { return state->waiting[id] || !state->why_ended.empty(); });
    answer = std::move(state->waiting[id]);
    state->waiting.erase(id);
    if (!answer && !state->why_ended.empty()) throw Error(ErrorKind::kVm, state->why_ended);
  }
  if (!answer) throw_late(command, patience);
  if (const auto* failure = std::get_if<QmpFailure>(&*answer))
    throw Error(ErrorKind::kVm,
                fmt::format("QEMU refused {}: {} ({})", command, failure->description, failure->error_class));
  return Json::parse(std::get<QmpReply>(*answer).result);
}

void QmpClient::send(std::string_view line, int fd, const Patience& patience) {
  const auto deadline = std::chrono::steady_clock::now() + patience.timeout;
  const auto whole_line = sending_.lock();
  switch (send_all(fd_.get(), line, fd, deadline)) {
    case SendResult::kSent:
      return;
    case SendResult::kTimedOut:
      end("QEMU does not read its commands");
      break;  // half a line was sent, so the conversation cannot continue
    case SendResult::kGone:
      end("QEMU closed the connection");
      break;
  }
}

void QmpClient::end(const std::string& why) {
  {
    auto state = state_.lock();
    if (state->why_ended.empty()) state->why_ended = why;
  }
  changed_.notify_all();
}

void QmpClient::take(QmpMessage message) {
  if (const auto* event = std::get_if<QmpEvent>(&message)) {
    if (on_event_) on_event_(*event);
    return;
  }
  auto state = state_.lock();
  if (const auto* greeting = std::get_if<QmpGreeting>(&message)) {
    if (state->version) throw Error(ErrorKind::kCorrupt, "QMP: a second greeting");
    state->version = greeting->version;
  } else {
    const auto* reply = std::get_if<QmpReply>(&message);
    const auto id = reply != nullptr ? reply->id : std::get<QmpFailure>(message).id;
    if (!id || *id >= state->next_id) throw Error(ErrorKind::kCorrupt, "QMP: an answer without a request");
    const auto found = state->waiting.find(*id);
    if (found != state->waiting.end()) found->second = std::move(message);  // else the answer came too late
  }
  state.unlock();
  changed_.notify_all();
}

void QmpClient::read_all(const std::stop_token& stop) {
  std::string why = "QEMU closed the connection";
  try {
    QmpReader reader;
    std::array<std::uint8_t, kReadSize> buffer{};
    while (wait_readable(fd_.get(), wake_) == Readable::kData && !stop.stop_requested()) {
      const ssize_t got = ::recv(fd_.get(), buffer.data(), buffer.size(), MSG_DONTWAIT);
      if (got < 0 && (errno == EAGAIN || errno == EINTR)) continue;
      if (got <= 0) break;
      reader.feed({buffer.data(), static_cast<std::size_t>(got)});
      while (auto message = reader.next()) take(std::move(*message));
    }
  } catch (const std::exception& error) {
    why = error.what();
  }
  end(why);
}

}  // namespace isr
