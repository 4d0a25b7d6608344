// Whole lines are written to stdout and stderr with write(2). So several processes in one pipeline do not mix within a
// line, and a full disk or a closed pipe is noticed at the write that meets it.
#include "cli/output.h"

#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>

#include <cstdlib>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "cli/context.h"

namespace isr {
namespace {

using nlohmann::json;

/// Ends the process as an unhandled SIGPIPE does, which shells report as 141.
[[noreturn]] void die_of_closed_pipe() {
  ::signal(SIGPIPE, SIG_DFL);
  ::raise(SIGPIPE);
  ::_exit(141);
}

void write_all(int fd, std::string_view text, const char* name) {
  while (!text.empty()) {
    const ssize_t n = ::write(fd, text.data(), text.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EPIPE) die_of_closed_pipe();
    if (n < 0) throw_errno(name, errno);
    text.remove_prefix(static_cast<std::size_t>(n));
  }
}

/// Writes to stderr and ignores failures: a message that cannot be written does not make the command fail.
void write_talk(const std::string& text) {
  try {
    write_all(STDERR_FILENO, text, "stderr");
  } catch (const Error&) {
    return;
  }
}

bool wants_colour(const std::string& flag, int fd) {
  const char* variable = std::getenv("ISR_COLOR");  // NOLINT(concurrency-mt-unsafe): nothing sets it
  const char* no_colour = std::getenv("NO_COLOR");  // NOLINT(concurrency-mt-unsafe)
  const char* terminal = std::getenv("TERM");       // NOLINT(concurrency-mt-unsafe)
  const std::string choice = flag == "auto" && variable != nullptr ? variable : flag;
  if (choice == "always") return true;
  const bool dumb = terminal == nullptr || std::string_view(terminal) == "dumb";
  return choice != "never" && (no_colour == nullptr || *no_colour == '\0') && !dumb && ::isatty(fd) == 1;
}

std::string_view escape_of(Output::Style style) {
  switch (style) {
    case Output::Style::kBold:
      return "\x1b[1m";
    case Output::Style::kGood:
      return "\x1b[32m";
    case Output::Style::kWarn:
      return "\x1b[33m";
    case Output::Style::kBad:
      return "\x1b[31m";
    case Output::Style::kDim:
      return "\x1b[2m";
  }
  return "";
}

/// The width of a cell in columns: counts code points, without escape sequences.
std::size_t width_of(std::string_view cell) {
  std::size_t width = 0;
  bool in_escape = false;
  for (const char c : cell) {
    if (c == '\x1b') in_escape = true;
    if (!in_escape && (static_cast<unsigned char>(c) & 0xC0U) != 0x80) ++width;
    if (in_escape && c == 'm') in_escape = false;
  }
  return width;
}

json error_object(const Error& error) {
  return {{"type", "error"},
          {"kind", to_name(error.kind())},
          {"message", error.what()},
          {"hints", error.hints()},
          {"retryable", error.kind() == ErrorKind::kTransient || error.kind() == ErrorKind::kOffline},
          {"exit_code", to_exit_code(error.kind())}};
}

/// The length of the UTF-8 sequence at the front; 0 when it is invalid.
std::size_t utf8_length(std::string_view text) {
  const auto lead = static_cast<unsigned char>(text[0]);
  const std::size_t length = lead < 0x80                   ? 1
                             : lead >= 0xC2 && lead < 0xE0 ? 2
                             : lead >= 0xE0 && lead < 0xF0 ? 3
                             : lead >= 0xF0 && lead < 0xF5 ? 4
                                                           : 0;
  if (length == 0 || length > text.size()) return 0;
  for (std::size_t i = 1; i < length; ++i) {
    if ((static_cast<unsigned char>(text[i]) & 0xC0U) != 0x80) return 0;
  }
  return length;
}

bool acts_on_terminals(std::string_view character) {
  const auto first = static_cast<unsigned char>(character[0]);
  if (character.size() == 1) return first < 0x20 || first == 0x7f;
  const auto second = static_cast<unsigned char>(character[1]);
  if (character.size() == 2) return first == 0xC2 && second < 0xA0;  // C1 controls
  // Marks and overrides of direction: U+200E, U+200F, U+202A..202E, U+2066..2069.
  if (character.size() != 3 || first != 0xE2) return false;
  const auto third = static_cast<unsigned char>(character[2]);
  return (second == 0x80 && (third == 0x8E || third == 0x8F || (third >= 0xAA && third <= 0xAE))) ||
         (second == 0x81 && third >= 0xA6 && third <= 0xA9);
}

}  // namespace

std::string printable(std::string_view text) {
  std::string out;
  while (!text.empty()) {
    const std::size_t length = utf8_length(text);
    const auto character = text.substr(0, std::max<std::size_t>(length, 1));
    if (length == 0 || acts_on_terminals(character)) {
      for (const char c : character) out += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
    } else {
      out += character;
    }
    text.remove_prefix(character.size());
  }
  return out;
}

Output::Output(const GlobalFlags& flags)
    : json_(flags.json),
      quiet_(flags.quiet),
      colour_stdout_(wants_colour(flags.color, STDOUT_FILENO)),
      colour_stderr_(wants_colour(flags.color, STDERR_FILENO)),
      progress_(flags.progress) {}

void Output::line(std::string_view text) const {
  std::string whole(text);
  if (!whole.ends_with('\n')) whole += '\n';
  write_all(STDOUT_FILENO, whole, "stdout");
}

void Output::raw(std::string_view text) const { write_all(STDOUT_FILENO, text, "stdout"); }

void Output::document(const nlohmann::json& document) const {
  line(document.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
}

void Output::done(std::string_view text, const nlohmann::json& fields) const {
  if (!json_) return line(printable(text));
  nlohmann::json summary = fields;
  summary["schema"] = 1;
  summary["type"] = "summary";
  document(summary);
}

void Output::note(std::string_view text) const {
  if (!quiet_) write_talk(printable(text) + '\n');
}

void Output::warn(std::string_view text) const {
  if (json_) document({{"type", "warning"}, {"message", std::string(text)}});
  if (!quiet_) write_talk("isr: warning: " + printable(text) + '\n');
}

void Output::error(const Error& error) const {
  if (json_) document(error_object(error));
  std::string text = "isr: " + printable(error.what()) + '\n';
  if (colour_stderr_) text = fmt::format("{}isr:\x1b[0m {}\n", escape_of(Style::kBad), printable(error.what()));
  for (const auto& hint : error.hints()) text += "  hint: " + printable(hint) + '\n';
  write_talk(text);
}

void Output::table(const std::vector<std::vector<std::string>>& rows, std::string_view indent) const {
  std::vector<std::size_t> widths;
  for (const auto& row : rows) {
    widths.resize(std::max(widths.size(), row.size()));
    for (std::size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], width_of(row[i]));
  }
  std::string out;
  for (const auto& row : rows) {
    out += indent;
    for (std::size_t i = 0; i < row.size(); ++i) {
      out += row[i];
      if (i + 1 < row.size()) out += std::string(widths[i] - width_of(row[i]) + 2, ' ');
    }
    out += '\n';
  }
  if (!out.empty()) line(out);
}

std::string Output::styled(std::string_view text, Style style) const {
  if (!colour_stdout_) return std::string(text);
  return fmt::format("{}{}\x1b[0m", escape_of(style), text);
}

int report_failure(const GlobalFlags& flags, const Error& error) noexcept {
  try {
    Output(flags).error(error);
  } catch (const std::exception&) {
    return to_exit_code(error.kind());  // stdout is full or gone: the exit code still reports the failure
  }
  return to_exit_code(error.kind());
}

std::string printable_path(const std::filesystem::path& path) { return printable(path.string()); }

}  // namespace isr
