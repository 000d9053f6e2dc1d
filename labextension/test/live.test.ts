import { describe, expect, it } from 'vitest';

import { Live } from '../src/live';

function live(ask: (tag: string) => Promise<{ tag: string; value: number } | null>): Live<number> {
  return new Live({ name: 'test', interval: 60_000, ask, isWatched: () => true });
}

describe('Live', () => {
  it('redraws only for news', async () => {
    const answers = [{ tag: 'a', value: 1 }, null, { tag: 'b', value: 2 }];
    const tags: string[] = [];
    const polled = live(tag => {
      tags.push(tag);
      return Promise.resolve(answers.shift() ?? null);
    });
    const seen: (number | null)[] = [];
    polled.changed.connect((_, known) => void seen.push(known.value));
    for (let look = 0; look < 3; look++) {
      await polled.refresh();
    }
    expect(seen).toEqual([1, 2]);
    expect(tags.slice(0, 3)).toEqual(['', 'a', 'a']);
    polled.dispose();
  });

  it('keeps the last value beside an error, and forgets the error with the next answer', async () => {
    let isDown = false;
    const polled = live(() =>
      isDown ? Promise.reject(new Error('down')) : Promise.resolve({ tag: 'a', value: 1 })
    );
    await polled.refresh();
    isDown = true;
    await polled.refresh();
    expect(polled.known).toMatchObject({ value: 1, error: { message: 'down' } });
    isDown = false;
    await polled.refresh();
    expect(polled.known).toMatchObject({ value: 1, error: null });
    polled.dispose();
  });

  it('asks without a tag for another picture of the same', async () => {
    const tags: string[] = [];
    const polled = live(tag => {
      tags.push(tag);
      return Promise.resolve({ tag: 'a', value: 1 });
    });
    await polled.refresh();
    await polled.renew();
    expect(tags.slice(0, 2)).toEqual(['', '']);
    polled.dispose();
  });
});
