/** The settings of a person, as JupyterLab keeps them. */

import type { ISettingRegistry } from '@jupyterlab/settingregistry';

import type { Tagged } from './api';
import type { ClusterList, Form, StudyList } from './types';

export interface Settings {
  /** Stores to show; none for all that the server has. */
  stores: string[];
  /** Clusters to show; none for all that the server has. */
  clusters: string[];
  pollMilliseconds: number;
  /** What the form holds at first. */
  defaults: Partial<Form>;
}

const LEAST_SECONDS = 0.5;
const USUAL_SECONDS = 2;

export function readSettings(loaded: ISettingRegistry.ISettings | null): Settings {
  const value = (name: string): unknown => loaded?.get(name).composite;
  const seconds = (value('pollSeconds') as number | undefined) ?? USUAL_SECONDS;
  return {
    stores: (value('stores') as string[] | undefined) ?? [],
    clusters: (value('clusters') as string[] | undefined) ?? [],
    pollMilliseconds: 1000 * Math.max(LEAST_SECONDS, seconds),
    defaults: (value('defaults') as Partial<Form> | undefined) ?? {}
  };
}

/** An answer without the studies of stores that nobody wants to see. */
export function shownStudies(
  answer: Tagged<StudyList> | null,
  { stores }: Settings
): Tagged<StudyList> | null {
  if (!answer || stores.length === 0) {
    return answer;
  }
  const studies = answer.value.studies.filter(line => stores.includes(line.store));
  return { ...answer, value: { ...answer.value, studies } };
}

/** An answer without the clusters that nobody wants to see. */
export function shownClusters(
  answer: Tagged<ClusterList> | null,
  { clusters }: Settings
): Tagged<ClusterList> | null {
  if (!answer || clusters.length === 0) {
    return answer;
  }
  const wanted = answer.value.clusters.filter(line => clusters.includes(line.name));
  return { ...answer, value: { ...answer.value, clusters: wanted } };
}
