// Calls of the worker.

import type { Answer, MapRows, Request } from "./protocol";

export class WorkerError extends Error {
  constructor(
    message: string,
    readonly cancelled: boolean,
  ) {
    super(message);
  }
}

interface Call {
  resolve(value: unknown): void;
  reject(error: Error): void;
  onProgress?: OnProgress;
}

type OnProgress = (share: number, rows?: MapRows) => void;

export class Client {
  private readonly worker: Worker;
  private readonly calls = new Map<number, Call>();
  private next = 1;
  private failure: WorkerError | null = null;

  constructor(code: string) {
    const address = URL.createObjectURL(new Blob([code], { type: "text/javascript" }));
    this.worker = new Worker(address, { name: "landcover" });
    this.worker.onmessage = ({ data }: MessageEvent<Answer>) => {
      const call = this.calls.get(data.id);
      if (!call) return;
      if ("progress" in data) {
        call.onProgress?.(data.progress, data.rows);
        return;
      }
      this.calls.delete(data.id);
      if (data.ok) call.resolve(data.value);
      else call.reject(new WorkerError(data.error, data.cancelled));
    };
    this.worker.onerror = () => {
      this.failure = new WorkerError("The browser stopped the worker, probably for lack of memory. Reload the page.", false);
      for (const call of this.calls.values()) call.reject(this.failure);
      this.calls.clear();
    };
  }

  call<T>(request: Request, transfer: Transferable[] = [], onProgress?: OnProgress): Promise<T> {
    if (this.failure) return Promise.reject(this.failure);
    const id = this.next++;
    return new Promise<T>((resolve, reject) => {
      this.calls.set(id, { resolve: resolve as (value: unknown) => void, reject, onProgress });
      this.worker.postMessage({ id, ...request }, transfer);
    });
  }

  cancel(scene: number): void {
    this.worker.postMessage({ cancel: scene });
  }
}
