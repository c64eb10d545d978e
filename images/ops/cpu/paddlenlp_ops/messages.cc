// Tokens for another process: a System V message queue, and files.
//
// The queue's key comes from the folder PADDLE_STACKS_QUEUE, so that each run can have its own;
// without it from the working folder, as upstream's does.
#include <errno.h>
#include <stdlib.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/stat.h>

#include <fstream>

#include "tensors.h"

namespace paddle_stacks {
namespace {

constexpr int64_t kMostRows = 512;

// Upstream's message: whether to go on (1 or -1), how many rows, their tokens.
struct Message {
  long type;  // NOLINT: the type that msgsnd requires
  int content[2 + kMostRows];
};

std::string Failure(const std::string& what) { return what + ": " + strerror(errno); }

int Queue(const char* op) {
  const char* named = getenv("PADDLE_STACKS_QUEUE");
  const std::string folder = named != nullptr && *named != '\0' ? named : "./";
  const key_t key = ftok(folder.c_str(), 1);
  Require(key != -1, [&] { return Failure(std::string(op) + ": no queue for folder " + folder); });
  const int id = msgget(key, IPC_CREAT | 0666);
  Require(id != -1, [&] { return Failure(std::string(op) + ": queue of folder " + folder); });
  return id;
}

void MakeFolders(const std::string& path) {
  for (size_t end = path.find('/', 1); end != std::string::npos; end = path.find('/', end + 1)) {
    const std::string folder = path.substr(0, end);
    Require(mkdir(folder.c_str(), 0755) == 0 || errno == EEXIST,
            [&] { return Failure("save_with_output: " + folder); });
  }
}

}  // namespace

void SaveOutput(const Tensor& x, const Tensor& not_need_stop, int64_t rank_id) {
  if (rank_id > 0) return;
  const int64_t rows = x.shape()[0];
  Require(rows <= kMostRows, [&] {
    return "save_output: a message holds " + std::to_string(kMostRows) + " rows, got " +
           std::to_string(rows);
  });
  Message message{};
  message.type = 1;
  message.content[0] = Rows<bool>("save_output: not_need_stop", not_need_stop, 1)[0] ? 1 : -1;
  message.content[1] = static_cast<int>(rows);
  const int64_t* tokens = Rows<int64_t>("save_output: x", x, rows);
  for (int64_t i = 0; i < rows; ++i) message.content[2 + i] = static_cast<int>(tokens[i]);
  const int queue = Queue("save_output");
  int result;
  do {  // waits while the queue is full
    result = msgsnd(queue, &message, sizeof(message.content), 0);
  } while (result == -1 && errno == EINTR);
  Require(result == 0, [] { return Failure("save_output: the tokens were not sent"); });
}

// Leaves -2 and 0 in x if there is no message.
void GetOutput(const Tensor& x, int64_t rank_id, bool wait_flag) {
  if (rank_id > 0) return;
  int64_t* out = MutableRows<int64_t>("get_output: x", x, 2);
  Message message{};
  const ssize_t size =
      msgrcv(Queue("get_output"), &message, sizeof(message.content), 0, wait_flag ? 0 : IPC_NOWAIT);
  if (size == -1) {
    // A signal lets Python run its handler before it asks again.
    Require(errno == ENOMSG || errno == EINTR, [] { return Failure("get_output"); });
    out[0] = -2;
    out[1] = 0;
    return;
  }
  const int64_t rows = message.content[1];
  Require(
      size == sizeof(message.content) && 0 <= rows && rows <= kMostRows && rows + 2 <= x.numel(),
      [&] {
        return "get_output: a message of " + std::to_string(size) + " bytes and " +
               std::to_string(rows) + " rows for " + std::to_string(x.numel()) + " elements";
      });
  for (int64_t i = 0; i < rows + 2; ++i) out[i] = message.content[i];
}

// A file of one byte "1" (complete), one byte for the type and the elements.
Tensors SaveWithOutput(const Tensor& x, const Tensor& batch_idx, const Tensor& step_idx,
                       std::string file_path, int64_t rank_id) {
  const int batch = Rows<int>("save_with_output: batch_idx", batch_idx, 1)[0];
  const int64_t step = Rows<int64_t>("save_with_output: step_idx", step_idx, 1)[0];
  char type = '0';
  if (x.dtype() == DataType::INT64) {
    type = '1';
  } else if (x.dtype() == DataType::INT32) {
    type = '2';
  } else {
    RequireType("save_with_output: x", x, DataType::FLOAT32);
  }
  if (rank_id >= 0) file_path += "_rank_" + std::to_string(rank_id);
  if (batch >= 0) file_path += "_batch_" + std::to_string(batch);
  if (step >= 0) file_path += "_step_" + std::to_string(step);
  MakeFolders(file_path);
  std::ofstream file(file_path, std::ios::binary);
  file.put('0').put(type);
  file.write(static_cast<const char*>(x.data()), x.numel() * phi::SizeOf(x.dtype()));
  file.seekp(0).put('1');
  file.close();
  Require(file.good(), [&] { return Failure("save_with_output: " + file_path); });
  return {x.copy_to(paddle::CPUPlace(), false)};
}

std::vector<Dims> SaveWithOutputShape(const Dims& x, const Dims& batch_idx, const Dims& step_idx) {
  return {x};
}

std::vector<DataType> SaveWithOutputType(const DataType& x, const DataType& batch_idx,
                                         const DataType& step_idx) {
  return {x};
}

}  // namespace paddle_stacks

using namespace paddle_stacks;  // NOLINT: the macros below want plain names

PD_BUILD_OP(save_output)
    .Inputs({"x", "not_need_stop"})
    .Attrs({"rank_id: int64_t"})
    .Outputs({"x_out"})
    .SetInplaceMap({{"x", "x_out"}})
    .SetKernelFn(PD_KERNEL(SaveOutput));

PD_BUILD_OP(get_output)
    .Inputs({"x"})
    .Attrs({"rank_id: int64_t", "wait_flag: bool"})
    .Outputs({"x_out"})
    .SetInplaceMap({{"x", "x_out"}})
    .SetKernelFn(PD_KERNEL(GetOutput));

PD_BUILD_OP(save_with_output)
    .Inputs({"x", "batch_idx", "step_idx"})
    .Attrs({"file_path: std::string", "rank_id: int64_t"})
    .Outputs({"out"})
    .SetKernelFn(PD_KERNEL(SaveWithOutput))
    .SetInferShapeFn(PD_INFER_SHAPE(SaveWithOutputShape))
    .SetInferDtypeFn(PD_INFER_DTYPE(SaveWithOutputType));
